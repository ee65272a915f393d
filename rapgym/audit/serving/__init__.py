"""The audit log of the serving world: what one line says, and how it is written, explained and replayed."""
