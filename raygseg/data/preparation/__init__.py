"""From a folder as it was found to checked pictures (and label maps) of one size in Parquet shards."""
