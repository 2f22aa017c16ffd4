"""From a score to a decision: what is fitted on labelled cases and applied to new ones."""
