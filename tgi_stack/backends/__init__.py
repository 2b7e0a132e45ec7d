"""Who answers: one protocol (`base`), several real implementations behind it."""
