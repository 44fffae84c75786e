"""The command line: `atelier up | down | ps | generate | doctor`."""
