"""What AWS's own images of frameworks do, for the Python of the server that they run on."""
