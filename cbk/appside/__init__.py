"""What the application uses: the schema, and the recording of uploads and deletes."""
