"""The verbs. jax is imported only inside a verb."""
