"""The conformance kit, public."""
