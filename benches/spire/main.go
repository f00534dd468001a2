// Calls a Workload API and prints the cost, one JSON object a line:
//
//	bench memory NAME SOCKET PID STREAM   memory of the daemon NAME when idle, and per open stream
//	bench calls NAME SOCKET PID STREAM    time of calls, and the daemon's CPU time per call
//	bench compare                         reads these lines and prints a table with ratios
//
// STREAM is FetchX509SVID or FetchJWTBundles. The client is the same grpc-go for each daemon; its time is in each number,
// and the row of the unknown call shows how much it is.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
)

// One value of one run.
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

// A daemon to measure: its name in the table, its socket and its process.
type daemon struct {
	name   string
	socket string
	pid    int
	// The method of the streams.
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
