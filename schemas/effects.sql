-- The tables of the extension effects. Effects are logits: of a class, minus the mean of all classes' logits.

CREATE TABLE effect_images (
    image_id UINTEGER, class_id UINTEGER, logit FLOAT, mask_share FLOAT
);
CREATE TABLE class_effects (
    layer VARCHAR, unit UINTEGER, class_id UINTEGER, n UINTEGER,
    effect FLOAT, effect_se FLOAT, direct FLOAT, through_norm FLOAT, indirect FLOAT,
    n_masked UINTEGER, effect_subject FLOAT, effect_background FLOAT, effect_prefix FLOAT, subject_share FLOAT,
    rank_by_effect UINTEGER
);
-- The index's own view key_neurons is called scored_neurons here.
CREATE VIEW effect_images AS FROM vitdex_effects.main.effect_images;
CREATE VIEW class_effects AS FROM vitdex_effects.main.class_effects;
CREATE VIEW key_neurons AS
    SELECT k.*, e.effect, e.effect_se, e.direct, e.through_norm, e.indirect,
           e.effect_subject, e.effect_background, e.effect_prefix, e.subject_share, e.rank_by_effect
    FROM scored_neurons k
    LEFT JOIN class_effects e USING (layer, unit, class_id);
