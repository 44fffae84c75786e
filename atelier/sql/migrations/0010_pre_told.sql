-- What was told of a generation is found by it: for who looks, and for who deletes it.
CREATE INDEX webhook_deliveries_by_generation ON webhook_deliveries (generation_id);
