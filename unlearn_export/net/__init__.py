"""What reading from the Hub and writing to it share: where it is, requests that are tried again, downloads."""
