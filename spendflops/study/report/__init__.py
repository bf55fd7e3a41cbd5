"""One static page: tables, chart, protocol, assumptions."""
