"""newsloom: parsed news articles, from record files over Kafka into Postgres."""
