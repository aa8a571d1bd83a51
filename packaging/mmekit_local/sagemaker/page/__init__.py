"""The page under /_mme/."""
