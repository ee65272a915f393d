"""The Gymnasium environments: shells around the world."""
