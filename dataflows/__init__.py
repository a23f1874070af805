"""The job: sources, columnar batches, the dedupe index, operators, and the flow itself."""
