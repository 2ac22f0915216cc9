"""Networks to be attacked, and the scripts that train them."""
