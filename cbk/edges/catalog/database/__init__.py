"""The open database of the catalog: its connection, tables, migrations, leases, and the one writer of a version's state."""
