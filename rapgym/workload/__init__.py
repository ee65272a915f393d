"""From a trace file to what each row demands."""
