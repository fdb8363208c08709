"""A search for inputs on which a sum in O(n) is silently wrong: random nasty clouds against sums over all pairs."""
