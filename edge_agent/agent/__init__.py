"""The daemon: adapters under supervision, sessions and triggers, targets, the disk; all parts put together from one configuration."""
