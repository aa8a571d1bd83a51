"""The live page under /_mme/: `routes` answers, `feed` says what happens."""
