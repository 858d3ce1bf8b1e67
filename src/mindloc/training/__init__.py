"""The only room that optimizes: optimizer, schedule, step, callbacks, trainer."""
