"""Who a head's rows are, and which class an image belongs to."""
