-- rebuild_v1: create a wallet that was open before, with the requests that its amount counts already.
--
-- KEYS  1 wallet, 2 set of the requests counted, 3 that set as its maker filled it (none: empty), 4 epoch
-- ARGV  1 available, 2 time to live of the set in ms, 3 the epoch from before the maker read the books
-- Reply 1 when it was created, 0 when it existed, 2 when everything was lost again meanwhile (the maker's set with it, and
--       what the books said then may be too little by now); nothing changes but that the maker's set goes

if redis.call('GET', KEYS[4]) ~= ARGV[3] then
  redis.call('DEL', KEYS[3])
  return 2
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[3])
  return 0
end
redis.call('HSET', KEYS[1], 'a', ARGV[1], 'h', '0')
redis.call('DEL', KEYS[2])
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('RENAME', KEYS[3], KEYS[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return 1
