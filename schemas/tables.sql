-- The tables of index.duckdb. Names are the interface. Ranks count from 1; blocks, units, patches and classes from 0.
-- Activations are raw values, contributions are logits, shares lie between 0 and 1.

CREATE TABLE layers (
    layer VARCHAR, block UINTEGER, kind VARCHAR, units UINTEGER, grid_rows UINTEGER, grid_cols UINTEGER
);
CREATE TABLE neurons (
    layer VARCHAR, unit UINTEGER,
    pre_mean FLOAT, pre_std FLOAT, post_mean FLOAT, positive_share FLOAT,
    q001 FLOAT, q50 FLOAT, q90 FLOAT, q99 FLOAT, q995 FLOAT, q999 FLOAT,
    value_norm FLOAT, dead BOOLEAN
);
CREATE TABLE classes (
    class_id UINTEGER, wnid VARCHAR, class VARCHAR, logit_offset FLOAT
);
CREATE TABLE images (
    image_id UINTEGER, path VARCHAR, label VARCHAR, class_id UINTEGER, predicted UINTEGER, p_class FLOAT,
    width UINTEGER, height UINTEGER, crop STRUCT("left" DOUBLE, top DOUBLE, "right" DOUBLE, bottom DOUBLE)
);
CREATE TABLE exemplars (
    layer VARCHAR, unit UINTEGER, side VARCHAR, token VARCHAR, rank UINTEGER,
    image_id UINTEGER, patch USMALLINT, pre FLOAT, post FLOAT
);
CREATE TABLE class_scores (
    layer VARCHAR, unit UINTEGER, class_id UINTEGER,
    score FLOAT, cosine FLOAT, probability FLOAT, folded FLOAT,
    rank_in_class UINTEGER, rank_in_layer UINTEGER, rank_in_unit UINTEGER
);
CREATE TABLE class_activations (
    layer VARCHAR, unit UINTEGER, class_id UINTEGER,
    n UINTEGER, mean_max FLOAT, mean FLOAT, post_mean FLOAT, cls_post_mean FLOAT, contribution FLOAT, auroc FLOAT
);
CREATE TABLE failures (
    path VARCHAR, reason VARCHAR
);
CREATE VIEW key_neurons AS
    SELECT s.class_id, c.class, c.wnid, s.layer, l.block, s.unit,
           s.score, s.cosine, s.probability, s.folded, s.rank_in_class, s.rank_in_layer, s.rank_in_unit,
           a.n, a.mean_max, a.mean, a.post_mean, a.cls_post_mean, a.contribution, a.auroc
    FROM class_scores s
    JOIN layers l USING (layer)
    JOIN classes c USING (class_id)
    LEFT JOIN class_activations a USING (layer, unit, class_id);
