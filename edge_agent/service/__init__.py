"""How the operating system runs the daemon: systemd on Linux; Windows behind the same interface (not run by the project's tests)."""
