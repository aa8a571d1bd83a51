"""Examples of before and after the deployment."""
