"""Work done side by side: processes, Ray, and how far it is."""
