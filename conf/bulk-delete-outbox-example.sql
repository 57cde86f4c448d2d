-- An application deletes an album: its row goes and its files are asked to go in one transaction, both or neither.
BEGIN;
INSERT INTO bulk_delete_outbox (request, target, resources)
    SELECT 'album-' || album, 'images', array_agg(path ORDER BY path) FROM photo WHERE album = 7 GROUP BY album;
DELETE FROM photo WHERE album = 7;
DELETE FROM album WHERE id = 7;
COMMIT;
