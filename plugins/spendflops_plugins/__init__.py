"""The plugins that come with spendflops: one file (or package) each, none imports another."""
