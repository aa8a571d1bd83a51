"""moto in this process: its services behind our port, and what it does otherwise than AWS."""
