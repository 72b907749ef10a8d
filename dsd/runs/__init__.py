"""The frame of a command: settings, identity, shards, manifest, messages."""
