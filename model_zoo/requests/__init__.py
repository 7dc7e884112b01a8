"""What a command or a scan asks for, as plain data, and how it is carried out on one model."""
