"""Settings, codec, bus, lanes, views: the only home of aiokafka, Faust and Redis."""
