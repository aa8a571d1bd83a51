"""Which build of the runtime this is; packing writes the hash of its files here."""

BUILD = "development"
