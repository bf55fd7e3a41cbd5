"""What is done to whole data sets, outside runs: they are verified, shown, and copied for fast reading."""
