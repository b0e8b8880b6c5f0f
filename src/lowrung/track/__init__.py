"""Where runs are recorded: MLflow, nowhere, or memory."""
