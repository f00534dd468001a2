// Drives a Workload API and says what it cost, one JSON object a line:
//
//	bench memory NAME SOCKET PID STREAM   what the daemon NAME holds when idle, and for each open stream
//	bench calls NAME SOCKET PID STREAM    how long calls take, and the daemon's processor time for each
//	bench compare                         reads those lines, and prints them as a table with the ratios
//
// STREAM is FetchX509SVID or FetchJWTBundles. Every daemon gets the same client, which is grpc-go as it comes: its own share
// is in every time, and the row of the call that no daemon knows shows how much that is.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
)

// One number of one run.
type measure struct {
	Daemon string  `json:"daemon"`
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Value  float64 `json:"value"`
}

func main() {
	log.SetFlags(0)
	switch {
	case len(os.Args) == 2 && os.Args[1] == "compare":
		compare(os.Stdin)
	case len(os.Args) == 6 && os.Args[1] == "memory":
		daemonOf(os.Args[2:]).memory()
	case len(os.Args) == 6 && os.Args[1] == "calls":
		daemonOf(os.Args[2:]).calls()
	default:
		log.Fatal("usage: bench memory|calls NAME SOCKET PID STREAM, or bench compare <LINES")
	}
}

// A daemon to measure: how it is called in the table, where it listens, and which process it is.
type daemon struct {
	name   string
	socket string
	pid    int
	// The method whose streams are opened.
	stream string
}

func daemonOf(arguments []string) daemon {
	pid, err := strconv.Atoi(arguments[2])
	if err != nil {
		log.Fatalf("%s is no process id", arguments[2])
	}
	return daemon{arguments[0], arguments[1], pid, arguments[3]}
}

func (d daemon) say(name, unit string, value float64) {
	line, err := json.Marshal(measure{d.name, name, unit, value})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}
