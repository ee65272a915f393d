"""Files as people have them: logs of requests, samples of memory, read into validated traces."""
