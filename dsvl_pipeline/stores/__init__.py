"""What `dsvl_pipeline.storage` talks to: the local file system and S3."""
