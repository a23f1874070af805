"""The boundary: what runs inside the customer's app. The event contract and, later, the SDK."""
