"""What serves a variant: instances, their containers, and the models that they have."""
