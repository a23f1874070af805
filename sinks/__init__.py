"""The edges out of Meterline: what the job writes to, and how it is delivered there."""
