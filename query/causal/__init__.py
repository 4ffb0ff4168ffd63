"""What neurons cause: answers with and without them."""
