"""The command line: `atelier up | down | ps | generate | get | doctor`."""
