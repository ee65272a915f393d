"""One replica behind a queue, batching continuously on a card whose free memory moves."""
