package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"sort"
)

const (
	ours   = "hostbadge"
	theirs = "spire-agent"
)

// The goals by measure: how many times better than SPIRE's agent, at least.
var aims = map[string]float64{
	"idle memory":                    4,
	"  for each stream":              3,
	"FetchJWTSVID, serial: p50":      8,
	"FetchJWTSVID, 16 at once: rate": 5,
}

// Prints the median of each measure over the rounds, and how many times better hostbadge is.
func compare(lines io.Reader) {
	values := map[string]map[string][]float64{}
	units := map[string]string{}
	var order []string
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		var line measure
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			log.Fatalf("not a measure: %s", scanner.Text())
		}
		if values[line.Name] == nil {
			values[line.Name] = map[string][]float64{}
			units[line.Name] = line.Unit
			order = append(order, line.Name)
		}
		values[line.Name][line.Daemon] = append(values[line.Name][line.Daemon], line.Value)
	}
	if err := scanner.Err(); err != nil {
		log.Fatal(err)
	}

	fmt.Printf("%-40s %14s %14s %9s\n", "", ours, theirs, "better")
	for _, name := range order {
		our, their := median(values[name][ours]), median(values[name][theirs])
		better := their / our
		if units[name] == "/s" {
			better = our / their
		}
		fmt.Printf("%-40s %11.1f %-2s %11.1f %-2s %8.1fx%s\n", name, our, units[name], their, units[name], better, beside(name, better))
	}
}

// The goal, if there is one, and whether it was reached.
func beside(name string, better float64) string {
	aim, aimed := aims[name]
	switch {
	case !aimed:
		return ""
	case better >= aim:
		return fmt.Sprintf("   aim %.0fx, met", aim)
	default:
		return fmt.Sprintf("   aim %.0fx, MISSED", aim)
	}
}

// The median; an error without values.
func median(values []float64) float64 {
	if len(values) == 0 {
		log.Fatal("a measure is there of one daemon only")
	}
	sort.Float64s(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}
