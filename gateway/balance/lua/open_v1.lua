-- open_v1: create a wallet.
--
-- KEYS  1 wallet
-- ARGV  1 available
-- Reply 1 when it was created, 0 when it existed (nothing changes)

if redis.call('HSETNX', KEYS[1], 'a', ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'h', '0')
return 1
