"""Values as they are written: how a setting is read, and how a value is shown."""
