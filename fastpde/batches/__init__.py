"""Many small systems that are moved by one compiled loop, and the forms in which attentions hand them over."""
