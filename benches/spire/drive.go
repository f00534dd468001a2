package main

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

const (
	serialCalls = 5_000
	freshCalls  = 1_000
	concurrent  = 16
	// How long the concurrent callers run.
	spell   = 3 * time.Second
	streams = 1_000
	// How long a daemon can release memory before it is measured.
	rest = 2 * time.Second
)

// Prints the daemon's memory when idle after one call, and with open streams. Must run first, since a daemon may keep
// memory of a burst of calls.
func (d daemon) memory() {
	first := connect(d.socket)
	first.jwt()
	first.follow(d.stream)()
	first.close()
	time.Sleep(rest)
	idle := d.resident("VmRSS")
	d.say("idle memory", "MB", idle/1e6)
	d.say("  of it its own (RssAnon)", "MB", d.resident("RssAnon")/1e6)

	ends := make([]func(), streams)
	for at := range ends {
		client := connect(d.socket)
		cancel := client.follow(d.stream)
		ends[at] = func() { cancel(); client.close() }
	}
	time.Sleep(rest)
	full := d.resident("VmRSS")
	d.say("memory, 1,000 "+d.stream, "MB", full/1e6)
	d.say("  for each stream", "KB", (full-idle)/1e3/streams)
	for _, end := range ends {
		end()
	}
}

func (d daemon) calls() {
	kept := connect(d.socket)
	defer kept.close()
	d.timed("unknown call, serial", serialCalls, kept.unknown)
	d.timed("FetchJWTSVID, serial", serialCalls, kept.jwt)
	d.timed("FetchJWTSVID, new connection", freshCalls, func() {
		client := connect(d.socket)
		client.jwt()
		client.close()
	})
	d.timed(d.stream+", first message", freshCalls, func() {
		client := connect(d.socket)
		client.follow(d.stream)()
		client.close()
	})
	d.together("unknown call, 16 at once", client.unknown)
	d.together("FetchJWTSVID, 16 at once", client.jwt)
}

// Prints the p50 and p99 of serial calls, and the daemon's CPU time per call.
func (d daemon) timed(name string, count int, call func()) {
	for range count / 10 {
		call()
	}
	times := make([]time.Duration, count)
	before := d.processor()
	for at := range times {
		started := time.Now()
		call()
		times[at] = time.Since(started)
	}
	each := (d.processor() - before) / float64(count)
	sort.Slice(times, func(one, other int) bool { return times[one] < times[other] })
	d.say(name+": p50", "us", micros(times[(count-1)*50/100]))
	d.say(name+": p99", "us", micros(times[(count-1)*99/100]))
	d.say(name+": CPU each", "us", each*1e6)
}

// Prints the calls per second of concurrent callers with a connection each, and the daemon's CPU time per call.
func (d daemon) together(name string, call func(client)) {
	var over atomic.Bool
	var count atomic.Int64
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for range concurrent {
		ready.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			client := connect(d.socket)
			defer client.close()
			for range 50 {
				call(client)
			}
			ready.Done()
			<-start
			for !over.Load() {
				call(client)
				count.Add(1)
			}
		}()
	}
	ready.Wait()
	before, started := d.processor(), time.Now()
	close(start)
	time.Sleep(spell)
	over.Store(true)
	done.Wait()
	took, calls := time.Since(started), float64(count.Load())
	d.say(name+": rate", "/s", calls/took.Seconds())
	d.say(name+": CPU each", "us", (d.processor()-before)/calls*1e6)
}

func micros(duration time.Duration) float64 {
	return float64(duration.Nanoseconds()) / 1e3
}
