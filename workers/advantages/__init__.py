"""From grades to advantages. The arithmetic of groups is `service.domain.scoring`, called here and nowhere else in training."""
