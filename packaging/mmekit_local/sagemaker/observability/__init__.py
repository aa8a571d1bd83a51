"""What can be seen from outside: metrics, logs, captured data."""
